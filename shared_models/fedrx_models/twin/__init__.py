"""A published model of one drug's effect, beside what a consortium has learned.

What belongs here is pure arithmetic with published numbers: equations, constants with their source,
virtual patients drawn from a published spread. What never does: training, files, or a patient's
name.

`warfarin` is the model from dose to INR. `inr` reads a study's patient, asks it, and weighs its
virtual patients by the INRs that were measured.
"""
