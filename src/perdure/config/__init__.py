"""The configuration: schema, composition, published settings, objects from it."""
