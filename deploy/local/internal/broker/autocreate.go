package broker

import (
	"log/slog"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// autoCreate makes a topic when a client that wants it made asks for it.
//
// kfake can do so itself, but writes such a topic to disk only when it closes: after a kill the topic, and
// every acknowledged record in it, would be gone. This one goes the way of CreateTopics, which writes first.
func autoCreate(c *kfake.Cluster, partitions int32, log *slog.Logger) {
	var mu sync.Mutex
	known := map[string]bool{} // exists for sure, as far as this broker deletes nothing
	c.ControlKey(int16(kmsg.DeleteTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		clear(known)
		return nil, nil, false
	})
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		metadata, ok := req.(*kmsg.MetadataRequest)
		if !ok || !metadata.AllowAutoTopicCreation {
			return nil, nil, false
		}
		var missing []string
		mu.Lock()
		for _, topic := range metadata.Topics {
			if topic.Topic != nil && *topic.Topic != "" && !known[*topic.Topic] {
				missing = append(missing, *topic.Topic)
			}
		}
		mu.Unlock()
		if len(missing) == 0 {
			return nil, nil, false
		}
		// Creating waits for the loop that runs this function: sleeping lets it go on.
		c.SleepControl(func() {
			for _, topic := range missing {
				if err := c.CreateTopic(topic, partitions, nil); err != nil && c.TopicInfo(topic) == nil {
					log.Warn("could not create a topic", slog.String("topic", topic), slog.String("error", err.Error()))
					continue // the client is told that there is none
				}
				mu.Lock()
				known[topic] = true
				mu.Unlock()
			}
		})
		return nil, nil, false
	})
}
