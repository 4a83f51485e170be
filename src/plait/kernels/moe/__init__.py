"""The experts of a mixture: rows out to them, their two products, and back; one file a backend."""
