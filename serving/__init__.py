"""From a trained run to a served, proven mask: export, server, launcher, clients."""
