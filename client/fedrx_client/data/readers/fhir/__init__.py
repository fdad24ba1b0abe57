"""FHIR R4 as hospitals give it: bundles, NDJSON bulk exports, folders of them, and servers.

What belongs here turns resources into records. What never does: reading a name, an address, a note
or a narrative; or putting an identifier, a date or a value of a patient into an error.
"""
