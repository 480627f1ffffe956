"""Ready-made tasks: data, model, training loop and run folder, each in its own package."""
