"""Files of weights, experts, scenes and layers."""
