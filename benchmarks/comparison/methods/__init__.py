"""Methods that segment images without annotators, behind one interface, to be compared."""
