"""By how much the model got better, and what each step of the road cost: base → adapter → merged → int4."""
