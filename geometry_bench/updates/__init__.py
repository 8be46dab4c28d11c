"""Pairs of checkpoints -> weight updates, tensor by tensor: reading, differences, decompositions, projected checkpoints.

Nothing here loads a model: tensors are read from safetensors files in slices, so that memory follows the largest tensor
and not the model. The modules are imported by name (`from geometry_bench.updates.update import compare`); none imports
torch, but for decompositions on a GPU.
"""
