"""Range estimation: ranges of tensors for which none is given."""
