package broker

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// silentMembers puts members out of their groups that have let their session pass and that kfake does not miss.
//
// kfake counts a member's session from an answer that reached it. One whose connection is gone when its JoinGroup or
// SyncGroup is answered is never counted: the group waits for it for a whole rebalance timeout, or is "stable" while its
// share of the partitions stands still until somebody else comes or goes. Kafka counts it all the same, and so does this.
type silentMembers struct {
	cluster *kfake.Cluster
	log     *slog.Logger

	mu     sync.Mutex
	groups map[string]*memberGroup
}

type memberGroup struct {
	generation int32 // the newest that a member has named
	members    map[string]*member
}

type member struct {
	session time.Duration
	heard   time.Time // its last request, or when that was found to be answered
	waiting bool      // for the answer of a JoinGroup or SyncGroup, which a living member does in silence
}

// watchMembers sees every request of a member, in the order in which kfake handles them.
func watchMembers(c *kfake.Cluster, log *slog.Logger) *silentMembers {
	s := &silentMembers{cluster: c, log: log, groups: map[string]*memberGroup{}}
	see := func(req kmsg.Request) (kmsg.Response, error, bool) {
		switch r := req.(type) {
		case *kmsg.JoinGroupRequest:
			if r.MemberID != "" {
				s.joins(r.Group, r.MemberID, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
			}
		case *kmsg.SyncGroupRequest:
			s.hears(r.Group, r.MemberID, r.Generation, true)
		case *kmsg.HeartbeatRequest:
			s.hears(r.Group, r.MemberID, r.Generation, false)
		}
		return nil, nil, false // and now kfake
	}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat} {
		c.ControlKey(int16(key), see)
	}
	return s
}

func (s *silentMembers) joins(group, id string, session time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups[group] == nil {
		s.groups[group] = &memberGroup{members: map[string]*member{}}
	}
	s.groups[group].members[id] = &member{session: session, heard: time.Now(), waiting: true}
}

func (s *silentMembers) hears(group, id string, generation int32, waiting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[group]
	if g == nil {
		return
	}
	if generation > g.generation {
		// The first word of a generation: every JoinGroup that led to it has been answered.
		g.generation = generation
		for _, m := range g.members {
			m.waiting, m.heard = false, time.Now()
		}
	}
	if m := g.members[id]; m != nil {
		m.waiting, m.heard = waiting, time.Now()
	}
}

// run looks once a second until ctx ends.
func (s *silentMembers) run(ctx context.Context, addr string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer client.Close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.mu.Lock()
		names := slices.Collect(maps.Keys(s.groups))
		s.mu.Unlock()
		for _, group := range names {
			asked := time.Now()
			if silent := s.silent(group, s.cluster.GroupInfo(group), asked); len(silent) > 0 {
				s.remove(ctx, client, group, silent)
			}
		}
	}
}

// silent are the members of a group, as it was at some time after asked, that have let their session pass.
func (s *silentMembers) silent(group string, info *kfake.GroupInfo, asked time.Time) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[group]
	present := map[string]bool{}
	if info != nil {
		for _, m := range info.Members {
			present[m.MemberID] = true
		}
	}
	for id, m := range g.members {
		switch {
		case m.heard.After(asked): // info may not know of it yet
		case !present[id]:
			delete(g.members, id)
		case m.waiting && info.State == "Stable":
			m.waiting, m.heard = false, time.Now() // a stable group has answered everybody
		case !m.waiting && time.Since(m.heard) > m.session:
			ids = append(ids, id)
		}
	}
	if len(g.members) == 0 {
		delete(s.groups, group)
	}
	return ids
}

func (s *silentMembers) remove(ctx context.Context, client *kgo.Client, group string, ids []string) {
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group = group
	for _, id := range ids {
		m := kmsg.NewLeaveGroupRequestMember()
		m.MemberID = id
		leave.Members = append(leave.Members, m)
	}
	if _, err := leave.RequestWith(ctx, client); err != nil {
		if ctx.Err() == nil {
			s.log.WarnContext(ctx, "could not put silent members out of their group", slog.String("group", group), slog.String("error", err.Error()))
		}
		return
	}
	s.log.InfoContext(ctx, "put members out of their group that were silent for a session", slog.String("group", group), slog.Int("members", len(ids)))
}
