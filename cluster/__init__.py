"""How carril is started, changed and watched: the command line, plans, deployments, checks."""
