module leafcutter/stages/recorder

go 1.26.0

require (
	leafcutter/schemas v0.0.0
	leafcutter/pkg v0.0.0
)

replace (
	leafcutter/schemas => ../../schemas
	leafcutter/pkg => ../../pkg
)
