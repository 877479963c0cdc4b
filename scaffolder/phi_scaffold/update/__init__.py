"""Update a project to the template of this version: a three-way merge with the template that it was created from."""
