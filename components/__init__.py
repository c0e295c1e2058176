"""Pipeline stages. Each stage has a `main.run` on plain paths and a thin KFP `component`."""
