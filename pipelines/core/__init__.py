"""What every stage shares: Ray, storage, one MLflow run and one summary a stage, the parts that are done, progress."""
