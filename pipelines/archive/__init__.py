"""An archive of videos and questions come in; tubes go out, as Parquet and in other tools' forms."""
