"""Annotation files and captioned videos come in; Uni-STG shards and a data card go out."""
