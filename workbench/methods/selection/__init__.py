"""Nothing new: chosen tensors of the base are trained."""
