"""Figures and tables about trainings and evaluations."""
