"""What is kept of a measurement: estimates, facts, measurements, judgements, baselines, migration."""
