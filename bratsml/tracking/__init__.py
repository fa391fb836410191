"""What a run records, and where; the one door to MLflow."""
