package stage

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"leafcutter/pkg/fault"
)

const scope = "leafcutter/pkg/stage"

// spans makes a span for each call of the handler: the child of its record's producer, or, for a batch, a span of its
// own that is linked to each of them.
type spans struct {
	stage  string
	tracer trace.Tracer
}

func newSpans(cfg Config) spans {
	provider := cfg.TracerProvider
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	return spans{stage: cfg.Name, tracer: provider.Tracer(scope)}
}

type span struct{ trace.Span }

func (s spans) start(ctx context.Context, ins []In, about func(In) About) (context.Context, span) {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.destination.name", ins[0].Topic),
		attribute.Int("messaging.batch.message_count", len(ins)),
	)}
	if len(ins) == 1 {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(extract(ins[0])))
		options = append(options, trace.WithAttributes(
			attribute.Int("messaging.destination.partition.id", int(ins[0].Partition)),
			attribute.Int64("messaging.kafka.offset", ins[0].Offset)))
		options = append(options, trace.WithAttributes(aboutAttributes(about(ins[0]))...))
	} else {
		for _, in := range ins {
			if c := trace.SpanContextFromContext(extract(in)); c.IsValid() {
				options = append(options, trace.WithLinks(trace.Link{SpanContext: c}))
			}
		}
	}
	ctx, made := s.tracer.Start(ctx, s.stage+" process", options...)
	return ctx, span{made}
}

func (s span) end(results []Result) {
	for _, r := range results {
		if r.Err != nil {
			s.SetStatus(codes.Error, fault.CodeOf(r.Err))
			s.RecordError(r.Err)
		}
		for _, f := range r.Failures {
			s.SetStatus(codes.Error, fault.CodeOf(f.Err))
			s.RecordError(f.Err)
		}
	}
	s.End()
}

// inject gives outs the trace to go on with: that of ctx, or one of their own that is linked to it.
func (s spans) inject(ctx context.Context, outs []Out) []Out {
	with := make([]Out, len(outs))
	for n, o := range outs {
		from := ctx
		if o.OwnTrace {
			var root trace.Span
			from, root = s.tracer.Start(ctx, s.stage+" hand over", trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindProducer),
				trace.WithLinks(trace.Link{SpanContext: trace.SpanContextFromContext(ctx)}),
				trace.WithAttributes(attribute.String("messaging.destination.name", o.Topic)))
			root.End()
		}
		o.Headers = withTrace(from, o.Headers)
		with[n] = o
	}
	return with
}

// extract gives a context with the trace that a record came with.
func extract(in In) context.Context {
	return propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier(in.Headers))
}

func aboutAttributes(a About) []attribute.KeyValue {
	var attrs []attribute.KeyValue
	if a.DocumentID != "" {
		attrs = append(attrs, attribute.String("leafcutter.document_id", a.DocumentID))
	}
	if a.RunID != "" {
		attrs = append(attrs, attribute.String("leafcutter.run_id", a.RunID))
	}
	if a.Page != 0 {
		attrs = append(attrs, attribute.Int("leafcutter.page", a.Page))
	}
	return attrs
}
