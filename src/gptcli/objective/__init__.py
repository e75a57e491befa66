"""The objectives of training: the loss of a batch, and the count by which it is normalised."""
