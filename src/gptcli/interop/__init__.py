"""Models of other programs: their configs, tensor names and files, read and written. One table a family."""
