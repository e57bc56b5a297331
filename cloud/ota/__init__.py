"""The fleet's side of updates: a repository of signed bundles, the service that answers devices, a broker."""
