"""The loop and all that it needs: optimizers, checkpoints, signals; `ft train` is train.run."""
