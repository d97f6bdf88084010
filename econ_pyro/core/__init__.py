"""What programs and engine share: compositing, distributions, poses, ensembles of networks."""
