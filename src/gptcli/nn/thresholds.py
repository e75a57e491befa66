"""Sizes at which the tensor code changes its method. The memory estimates need them too, so no torch is imported."""

MAX_MATMUL_SCORES = 512**2
"""Most scores of a head for which bf16 attention on a CPU uses whole matrix products instead of torch's kernel."""
LARGE_VOCABULARY = 1024
"""Smallest vocabulary for which the saved passes over the logits outweigh a call into Python and back."""
MAX_LOGITS = 2**27
"""Most logits that are held at once, in numbers; a larger matrix is processed in chunks."""
FIRST_TABLE = 2**20
"""Numbers in each of RoPE's first tables: 8,192 positions of a head of 128, whatever context a config claims."""
MAX_MUON_BATCH = 2**26
"""Most numbers in a batch of matrices that Muon orthogonalises at once: a larger one only takes memory."""
