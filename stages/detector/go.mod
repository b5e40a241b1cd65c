module leafcutter/stages/detector

go 1.26.0

require (
	github.com/google/go-cmp v0.7.0
	github.com/klauspost/compress v1.20.3
	github.com/yalue/onnxruntime_go v1.27.0
	go.uber.org/goleak v1.3.0
	google.golang.org/protobuf v1.36.12
	leafcutter/schemas v0.0.0
)

replace (
	leafcutter/schemas => ../../schemas
	leafcutter/pkg => ../../pkg
)
