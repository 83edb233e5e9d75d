"""Sums as text, a teacher that reads single digits, and a student with numerals as tokens."""
