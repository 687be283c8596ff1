"""Device profiles from what others measured, from little, and from a few measurements chosen for what they tell."""
