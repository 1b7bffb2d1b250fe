"""From a checkpoint and a recipe to results: one tensor, many tensors."""
