"""What claims may ask of a subject: one lab for each kind of it."""
