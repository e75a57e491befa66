"""What a training minimises: the loss of a batch, and the count by which it is normalised."""
