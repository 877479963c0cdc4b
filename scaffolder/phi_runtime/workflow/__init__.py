"""The config: read, located, translated, checked. No ML library is imported in this room.

A file goes through it in this order:

read        source, json_source, yaml_source (yaml_scalars, yaml_faults): values that know where they stand; comments
translate   draft, spellings, respell, dialects, pass_dialects: any generation of Olive's form → today's; overrides
check       schema/: the canonical form; diagnostics; parts, checks, data_checks, search_checks: what no single value shows
use         load: a file in, a Workflow out; paths
write       migrate, write: the canonical form as a file; json_schema, older_forms: the same knowledge for editors
"""
