"""Surgery on trained weights: other plans of sharing for a model that exists."""
