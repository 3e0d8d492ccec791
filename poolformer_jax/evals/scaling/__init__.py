"""How does the loss fall with parameters, samples and FLOPs? Laws fitted to finished trainings."""
