module leafcutter/schemas

go 1.26.0
