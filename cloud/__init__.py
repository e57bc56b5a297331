"""What runs in the cloud: training, the fallback server, the update repository."""
