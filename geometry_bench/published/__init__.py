"""What the sources printed: values, curves and statements."""
