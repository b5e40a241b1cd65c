module leafcutter/stages/detector

go 1.26.0

require (
	github.com/klauspost/compress v1.20.3
	github.com/yalue/onnxruntime_go v1.27.0
	go.uber.org/goleak v1.3.0
	google.golang.org/protobuf v1.36.12
	leafcutter/pkg v0.0.0
	leafcutter/schemas v0.0.0
)

replace (
	leafcutter/pkg => ../../pkg
	leafcutter/schemas => ../../schemas
)
