"""What is stored of patients at a site, and how: pseudonyms, the encrypted cohort, the pipeline.

What belongs here keeps clear rows off the disk. A key comes in as bytes: nothing here knows where
a site keeps it, and nothing here sends anything.
"""
