//! The field's words as types. They know no wire and no disk format.

use super::ids::TopicId;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that configuration, logs and tables use; the wire's name without its prefix.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value that `word` names.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.word() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// The way a message travels.
    Channel {
        /// WhatsApp Business Platform.
        Whatsapp = "WHATSAPP",
        /// Text message.
        Sms = "SMS",
        /// Email.
        Email = "EMAIL",
        /// Telephone call.
        Voice = "VOICE",
    }
}

words! {
    /// What a message is for. On WhatsApp a template's category is Meta's, never the caller's.
    Category {
        /// Promotion and re-engagement.
        Marketing = "MARKETING",
        /// About something the person ordered or asked for.
        Utility = "UTILITY",
        /// One-time passcodes.
        Authentication = "AUTHENTICATION",
        /// A reply within the customer-service window.
        Service = "SERVICE",
    }
}

words! {
    /// How a person opted in; the ways in which the field collects consent (domain §2).
    OptInMethod {
        /// A person working for the business asked in a conversation.
        AgentConversation = "AGENT_CONVERSATION",
        /// The customer asked for the messages of their own accord.
        CustomerRequest = "CUSTOMER_REQUEST",
        /// An entry of a WhatsApp menu or list.
        WhatsappMenu = "WHATSAPP_MENU",
        /// A WhatsApp button.
        WhatsappButton = "WHATSAPP_BUTTON",
        /// A keyword sent to the business by text message or WhatsApp.
        SmsKeyword = "SMS_KEYWORD",
        /// A link in a text message.
        SmsLink = "SMS_LINK",
        /// A link in an email.
        EmailLink = "EMAIL_LINK",
        /// A key pressed in a telephone menu.
        IvrKeyPress = "IVR_KEY_PRESS",
        /// An advertisement or page on social media.
        SocialMedia = "SOCIAL_MEDIA",
        /// A box in a checkout.
        CheckoutFlow = "CHECKOUT_FLOW",
        /// A form of contact preferences.
        PreferenceForm = "PREFERENCE_FORM",
        /// On paper or by word, face to face.
        InPerson = "IN_PERSON",
        /// Any other way; `method_detail` says which.
        Other = "OTHER",
    }
}

words! {
    /// How a person opted out.
    OptOutMethod {
        /// A word such as STOP.
        Keyword = "KEYWORD",
        /// A button of a message.
        Button = "BUTTON",
        /// An unsubscribe link.
        UnsubscribeLink = "UNSUBSCRIBE_LINK",
        /// A form on a web page.
        WebForm = "WEB_FORM",
        /// A key pressed in a call.
        KeyPress = "KEY_PRESS",
        /// Said in a call.
        Spoken = "SPOKEN",
        /// A setting of the platform, e.g. WhatsApp's marketing preference.
        PlatformPreference = "PLATFORM_PREFERENCE",
        /// Learnt from a provider's refusal or feedback loop.
        ProviderFeedback = "PROVIDER_FEEDBACK",
        /// Told to a person working for the business.
        Agent = "AGENT",
        /// A complaint.
        Complaint = "COMPLAINT",
        /// A letter or an email to the business.
        InWriting = "IN_WRITING",
        /// Taken over from another system.
        Import = "IMPORT",
        /// Not known.
        Unknown = "UNKNOWN",
    }
}

words! {
    /// The legal footing of an opt-in (domain §11).
    ConsentType {
        /// Said or done expressly; the only one that permits unless configured otherwise.
        Express = "EXPRESS",
        /// Inferred from a relationship, e.g. Canada's CASL.
        Implied = "IMPLIED",
        /// An existing customer, ePrivacy art. 13(2).
        SoftOptIn = "SOFT_OPT_IN",
    }
}

words! {
    /// How much an opt-in's evidence proves.
    EvidenceGrade {
        /// Method, name and time.
        Basic = "BASIC",
        /// Method, name, time, channels, message types and the notice shown.
        Strict = "STRICT",
    }
}

words! {
    /// Why earlier opt-ins no longer count.
    InvalidateCause {
        /// The person moved to another number; also an opt-out of this one.
        NumberChanged = "NUMBER_CHANGED",
        /// The number belongs to somebody else now.
        NumberReassigned = "NUMBER_REASSIGNED",
        /// The number never was the person's.
        WrongNumber = "WRONG_NUMBER",
        /// The evidence proved false.
        EvidenceFalse = "EVIDENCE_FALSE",
    }
}

words! {
    /// Why a send is denied, in the order in which they lead (design §3).
    Reason {
        /// The business is not configured here.
        UnknownBusiness = "UNKNOWN_BUSINESS",
        /// The recipient's address cannot be read.
        InvalidRecipient = "INVALID_RECIPIENT",
        /// Something needed for the decision could not be read.
        Unavailable = "UNAVAILABLE",
        /// The sender is not one of the business's.
        UnknownSender = "UNKNOWN_SENDER",
        /// The person opted out.
        OptedOut = "OPTED_OUT",
        /// An ambiguous reply awaits a clear one.
        ConsentInDoubt = "CONSENT_IN_DOUBT",
        /// The provider stopped this sender.
        SenderSuspended = "SENDER_SUSPENDED",
        /// No such template is registered.
        TemplateUnknown = "TEMPLATE_UNKNOWN",
        /// The template's status does not permit sending.
        TemplateNotApproved = "TEMPLATE_NOT_APPROVED",
        /// The category is not delivered to the recipient's country.
        RegionBlocked = "REGION_BLOCKED",
        /// A free-form message outside the customer-service window.
        WindowClosed = "WINDOW_CLOSED",
        /// Asked for, not yet confirmed.
        ConsentPending = "CONSENT_PENDING",
        /// The opt-in ran out.
        ConsentExpired = "CONSENT_EXPIRED",
        /// Opted in, but not to this message type.
        TopicNotCovered = "TOPIC_NOT_COVERED",
        /// Never opted in.
        NoConsent = "NO_CONSENT",
        /// This replica may have missed an opt-out.
        Stale = "STALE",
        /// Night at the recipient's.
        QuietHours = "QUIET_HOURS",
        /// The provider asked to wait.
        Cooldown = "COOLDOWN",
        /// Too many messages to this person.
        FrequencyCap = "FREQUENCY_CAP",
        /// Too many distinct recipients in 24 hours.
        MessagingLimit = "MESSAGING_LIMIT",
        /// Too fast from this sender to this person.
        PairRate = "PAIR_RATE",
        /// Too fast from this sender.
        SenderRate = "SENDER_RATE",
        /// Too much from this business this hour.
        BusinessRate = "BUSINESS_RATE",
    }
}

words! {
    /// What a provider says of a template (domain §3).
    TemplateStatus {
        /// May be sent.
        Approved = "APPROVED",
        /// Awaits review.
        Pending = "PENDING",
        /// Review refused it.
        Rejected = "REJECTED",
        /// A refusal is contested.
        InAppeal = "IN_APPEAL",
        /// Stopped for a time.
        Paused = "PAUSED",
        /// Stopped for good.
        Disabled = "DISABLED",
        /// Put away.
        Archived = "ARCHIVED",
        /// Gone.
        Deleted = "DELETED",
        /// About to go.
        PendingDeletion = "PENDING_DELETION",
        /// A word this version does not know; never sendable.
        Unknown = "UNKNOWN",
    }
}

words! {
    /// The provider's rating of a sender; worse is later.
    Quality {
        /// Good.
        Green = "GREEN",
        /// Not rated; treated as its own class.
        Unknown = "UNKNOWN",
        /// Medium.
        Yellow = "YELLOW",
        /// Bad.
        Red = "RED",
    }
}

words! {
    /// What a provider lets a sender do (domain §7).
    SenderStatus {
        /// In service.
        Connected = "CONNECTED",
        /// In service, low quality, on probation.
        Flagged = "FLAGGED",
        /// Not yet in service.
        Pending = "PENDING",
        /// Out of service.
        Offline = "OFFLINE",
        /// May only reply.
        Restricted = "RESTRICTED",
        /// Stopped.
        Banned = "BANNED",
    }
}

words! {
    /// What became of a send.
    SendOutcome {
        /// Handed to the provider.
        Sent = "SENT",
        /// On the person's device.
        Delivered = "DELIVERED",
        /// Seen.
        Read = "READ",
        /// Not sent or not delivered.
        Failed = "FAILED",
    }
}

impl Category {
    /// How strictly the category is judged; higher is stricter.
    #[must_use]
    pub const fn strictness(self) -> u8 {
        match self {
            Self::Service => 0,
            Self::Authentication => 1,
            Self::Utility => 2,
            Self::Marketing => 3,
        }
    }

    /// The stricter of two categories.
    #[must_use]
    pub const fn stricter(self, other: Self) -> Self {
        if other.strictness() > self.strictness() { other } else { self }
    }
}

/// What a consent event is about, on its channel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Everything.
    All,
    /// One category.
    Category(Category),
    /// One message type.
    Topic(TopicId),
}

/// The reach of a consent event as written: a channel, or all, and a purpose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The channel; `None` is every channel.
    pub channel: Option<Channel>,
    /// The purpose.
    pub purpose: Purpose,
}
