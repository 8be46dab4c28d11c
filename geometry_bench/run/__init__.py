"""What is measured in a run, in which order, and by whom."""
