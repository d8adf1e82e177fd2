"""How many machines a load needs: a simulation fed with measured speeds."""
