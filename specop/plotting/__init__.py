"""Pictures of arrays and numbers; matplotlib is imported when one is drawn."""
