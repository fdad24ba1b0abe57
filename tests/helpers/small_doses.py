"""What small studies of a dose have in common: two features, the outcome, a site's mapping."""

SCHEMA = """
[[features]]
name = "weight_kg"
kind = "number"
unit = "kg"
minimum = 30
maximum = 200
mean = 70
scale = 15
[[features]]
name = "vkorc1"
kind = "category"
values = ["G/G", "A/G", "A/A"]
[target]
name = "dose"
unit = "mg/week"
minimum = 1
maximum = 200
mean = 35
scale = 15
"""

MAPPING = """
[table]
patient = "id"
[target]
column = "dose"
unit = "mg/week"
[features.weight_kg]
kind = "number"
column = "weight"
unit = "kg"
[features.vkorc1]
kind = "category"
column = "snp"
values = { CC = "G/G", CT = "A/G", TT = "A/A" }
"""
