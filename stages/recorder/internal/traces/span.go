package traces

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// span is a row of otel_traces: the columns of the OpenTelemetry Collector's ClickHouse exporter, filled as it does.
type span struct {
	Timestamp          time.Time
	TraceID            string // 32 hexadecimal digits
	SpanID             string // 16
	ParentSpanID       string // 16, or empty
	TraceState         string
	Name               string
	Kind               string // Unspecified, Internal, Server, Client, Producer, Consumer
	Service            string
	ResourceAttributes map[string]string
	ScopeName          string
	ScopeVersion       string
	Attributes         map[string]string
	Duration           uint64 // nanoseconds
	StatusCode         string // Unset, Ok, Error
	StatusMessage      string

	EventTimes      []time.Time
	EventNames      []string
	EventAttributes []map[string]string

	LinkTraceIDs    []string
	LinkSpanIDs     []string
	LinkTraceStates []string
	LinkAttributes  []map[string]string
}

// decode reads an ExportTraceServiceRequest. Spans that no table can hold, for want of an identity or for their time,
// are counted and left out.
func decode(body []byte) (spans []span, bad int, err error) {
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(body, &request); err != nil {
		return nil, 0, fmt.Errorf("not an ExportTraceServiceRequest: %w", err)
	}
	for _, of := range request.GetResourceSpans() {
		attributes := attributesOf(of.GetResource().GetAttributes())
		service := serviceOf(of.GetResource())
		for _, in := range of.GetScopeSpans() {
			for _, s := range in.GetSpans() {
				if !fits(s) {
					bad++
					continue
				}
				row := newSpan(s)
				row.Service, row.ResourceAttributes = service, attributes
				row.ScopeName, row.ScopeVersion = in.GetScope().GetName(), in.GetScope().GetVersion()
				spans = append(spans, row)
			}
		}
	}
	return spans, bad, nil
}

func serviceOf(r *resource.Resource) string {
	for _, a := range r.GetAttributes() {
		if a.GetKey() == "service.name" {
			return text(a.GetValue())
		}
	}
	return ""
}

// Times of a DateTime64(9).
const maxNanos = math.MaxInt64

func fits(s *trace.Span) bool {
	return len(s.GetTraceId()) == 16 && len(s.GetSpanId()) == 8 &&
		s.GetStartTimeUnixNano() > 0 && s.GetStartTimeUnixNano() <= maxNanos && s.GetEndTimeUnixNano() <= maxNanos
}

func newSpan(s *trace.Span) span {
	row := span{
		Timestamp: at(s.GetStartTimeUnixNano()), TraceID: hex.EncodeToString(s.GetTraceId()), SpanID: hex.EncodeToString(s.GetSpanId()),
		ParentSpanID: hex.EncodeToString(s.GetParentSpanId()), TraceState: s.GetTraceState(), Name: s.GetName(), Kind: kind(s.GetKind()),
		Attributes: attributesOf(s.GetAttributes()), StatusCode: status(s.GetStatus().GetCode()), StatusMessage: s.GetStatus().GetMessage(),
	}
	if s.GetEndTimeUnixNano() > s.GetStartTimeUnixNano() {
		row.Duration = s.GetEndTimeUnixNano() - s.GetStartTimeUnixNano()
	}
	for _, e := range s.GetEvents() {
		row.EventTimes = append(row.EventTimes, at(min(e.GetTimeUnixNano(), maxNanos)))
		row.EventNames = append(row.EventNames, e.GetName())
		row.EventAttributes = append(row.EventAttributes, attributesOf(e.GetAttributes()))
	}
	for _, l := range s.GetLinks() {
		row.LinkTraceIDs = append(row.LinkTraceIDs, hex.EncodeToString(l.GetTraceId()))
		row.LinkSpanIDs = append(row.LinkSpanIDs, hex.EncodeToString(l.GetSpanId()))
		row.LinkTraceStates = append(row.LinkTraceStates, l.GetTraceState())
		row.LinkAttributes = append(row.LinkAttributes, attributesOf(l.GetAttributes()))
	}
	return row
}

func at(nanos uint64) time.Time { return time.Unix(0, int64(nanos)).UTC() }

func kind(k trace.Span_SpanKind) string {
	switch k {
	case trace.Span_SPAN_KIND_INTERNAL:
		return "Internal"
	case trace.Span_SPAN_KIND_SERVER:
		return "Server"
	case trace.Span_SPAN_KIND_CLIENT:
		return "Client"
	case trace.Span_SPAN_KIND_PRODUCER:
		return "Producer"
	case trace.Span_SPAN_KIND_CONSUMER:
		return "Consumer"
	default:
		return "Unspecified"
	}
}

func status(c trace.Status_StatusCode) string {
	switch c {
	case trace.Status_STATUS_CODE_OK:
		return "Ok"
	case trace.Status_STATUS_CODE_ERROR:
		return "Error"
	default:
		return "Unset"
	}
}

func attributesOf(list []*common.KeyValue) map[string]string {
	m := make(map[string]string, len(list))
	for _, a := range list {
		m[a.GetKey()] = text(a.GetValue())
	}
	return m
}

// text is a value as a string: scalars as they read, bytes in base64, lists and maps as JSON.
func text(v *common.AnyValue) string {
	switch v := plain(v, maxDepth).(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	default:
		b, err := json.Marshal(v)
		if err != nil { // NaN and infinities inside have no JSON
			return fmt.Sprint(v)
		}
		return string(b)
	}
}

// maxDepth bounds how deep lists and maps are followed; what lies deeper is null.
const maxDepth = 16

func plain(v *common.AnyValue, depth int) any {
	if depth == 0 {
		return nil
	}
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_BoolValue:
		return v.BoolValue
	case *common.AnyValue_IntValue:
		return v.IntValue
	case *common.AnyValue_DoubleValue:
		return v.DoubleValue
	case *common.AnyValue_BytesValue:
		return base64.StdEncoding.EncodeToString(v.BytesValue)
	case *common.AnyValue_ArrayValue:
		list := make([]any, 0, len(v.ArrayValue.GetValues()))
		for _, item := range v.ArrayValue.GetValues() {
			list = append(list, plain(item, depth-1))
		}
		return list
	case *common.AnyValue_KvlistValue:
		m := make(map[string]any, len(v.KvlistValue.GetValues()))
		for _, item := range v.KvlistValue.GetValues() {
			m[item.GetKey()] = plain(item.GetValue(), depth-1)
		}
		return m
	default:
		return nil
	}
}
