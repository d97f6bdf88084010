"""q: attention, encoders and the amortised posterior program."""
