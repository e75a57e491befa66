"""What is measured and told about gptcli and about runs; nothing below this floor needs it."""
