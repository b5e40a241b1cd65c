package schemas

import "time"

// Topic is one row of the table of topics.
type Topic struct {
	Name       string
	Partitions int32
	Retention  time.Duration // 0 where Compacted
	Compacted  bool
	MaxBytes   int32  // of one record batch
	Holds      string // what its values are
}

// Names of the topics, without the deployment's prefix.
const (
	TopicDocuments      = "documents"
	TopicPageRanges     = "page-ranges"
	TopicDetections     = "detections"
	TopicResults        = "results"
	TopicDocumentEvents = "document-events"
	TopicControls       = "controls"
	TopicModels         = "models"
	TopicDeadLetters    = "dead-letters"
)

// BulkSuffix ends the name of the twin that carries all but a run's first pages.
const BulkSuffix = ".bulk"

// PagesTopic is the topic of a model's rendered pages.
func PagesTopic(model string) string { return "pages." + model }

// Lane is topic, or its bulk twin.
func Lane(topic string, bulk bool) string {
	if bulk {
		return topic + BulkSuffix
	}
	return topic
}

// DetectorGroup is the consumer group of a model's detectors.
func DetectorGroup(model string) string { return "detector-" + model }

const (
	workRetention = 30 * 24 * time.Hour
	mib           = 1 << 20
	recordBytes   = 1 * mib
)

// MaxBytes is the size in bytes up to which a batch of records is taken by the topic of that name.
func MaxBytes(topic string) int32 {
	for _, t := range Topics() {
		if t.Name == topic {
			return t.MaxBytes
		}
	}
	return recordBytes + mib // the pages of a model
}

// Topics is the table from which topics are made, for the models given.
func Topics(models ...string) []Topic {
	work := func(name, holds string) Topic {
		return Topic{Name: name, Partitions: 12, Retention: workRetention, MaxBytes: recordBytes + mib, Holds: holds}
	}
	documents := work(TopicDocuments, "DocumentSubmitted, or the raw bytes of a PDF or image")
	documents.MaxBytes = MaxRawDocument + mib
	results := work(TopicResults, "DocumentAccepted, RunPlanned, PageDone, PageFailed, RunFailed, RunCancelled, RunResumed, DocumentDeleted")
	results.MaxBytes = 4 * mib
	dead := work(TopicDeadLetters, "the original record and why it was given up")
	dead.Partitions, dead.MaxBytes = 3, documents.MaxBytes+mib // any record, and what is said of it
	topics := []Topic{
		documents,
		work(TopicPageRanges, "PageRange: a run's first pages"),
		work(Lane(TopicPageRanges, true), "PageRange: the rest"),
		work(TopicDetections, "PageDetected"),
		results,
		work(TopicDocumentEvents, "RunEnded"),
		{Name: TopicControls, Partitions: 3, Compacted: true, MaxBytes: mib, Holds: "Control"},
		{Name: TopicModels, Partitions: 1, Compacted: true, MaxBytes: mib, Holds: "ModelAnnounced"},
		dead,
	}
	for _, m := range models {
		topics = append(topics,
			work(PagesTopic(m), "PageRendered: a run's first pages"),
			work(Lane(PagesTopic(m), true), "PageRendered: the rest"))
	}
	return topics
}
