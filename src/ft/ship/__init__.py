"""What leaves a run: the merged model."""
