"""What is learned of an unknown objective from the candidates evaluated so far."""
